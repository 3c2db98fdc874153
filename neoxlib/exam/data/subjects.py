"""Subjects of C-Eval, MMLU and CMMLU: names and classes. Questions come from the user's folder."""

from typing import NamedTuple

# Classes as in categories.py of github.com/hendrycks/test (commit 4450500), by C-Eval's names.
_MMLU = {
    "STEM": """
        abstract_algebra anatomy astronomy college_biology college_chemistry
        college_computer_science college_mathematics college_physics computer_security
        conceptual_physics electrical_engineering elementary_mathematics high_school_biology
        high_school_chemistry high_school_computer_science
        high_school_mathematics high_school_physics high_school_statistics machine_learning
    """,
    "Social Science": """
        econometrics high_school_geography high_school_government_and_politics
        high_school_macroeconomics high_school_microeconomics high_school_psychology
        human_sexuality professional_psychology public_relations security_studies sociology
        us_foreign_policy
    """,
    "Humanities": """
        formal_logic high_school_european_history high_school_us_history
        high_school_world_history international_law jurisprudence logical_fallacies moral_disputes
        moral_scenarios philosophy prehistory professional_law world_religions
    """,
    "Other": """
        business_ethics clinical_knowledge college_medicine global_facts human_aging management
        marketing medical_genetics miscellaneous nutrition professional_accounting
        professional_medicine virology
    """,
}
# Names of the same classes in a subject_mapping.json of MMLU, such as the Ascend SDK's.
CLASS_NAMES = {
    "social sciences": "Social Science",
    "humanities": "Humanities",
    "other": "Other",
    "other (business, health, misc.)": "Other",
}
# In the order of every table, figure and result file.
CLASSES = ("STEM", "Social Science", "Humanities", "Other")


class Subject(NamedTuple):
    """A subject: its English name, its Chinese name as in prompts, and its class."""

    english: str
    chinese: str
    category: str


def title(subject: str) -> str:
    """An English name made from a file's: `us_history` is US History."""
    words = subject.replace("_", " ").title()
    return words.replace("Us ", "US ").replace(" And ", " and ")


MMLU: dict[str, Subject] = {
    subject: Subject(title(subject), "", category)
    for category, names in _MMLU.items()
    for subject in names.split()
}


def _table(category: str, rows: dict[str, tuple[str, str]]) -> dict[str, Subject]:
    return {
        subject: Subject(english, chinese, category) for subject, (english, chinese) in rows.items()
    }


# Names and classes as in subject_mapping.json of github.com/hkust-nlp/ceval (commit b677c7b), in
# its order.
CEVAL: dict[str, Subject] = {
    **_table(
        "STEM",
        {
            "computer_network": ("Computer Network", "计算机网络"),
            "operating_system": ("Operating System", "操作系统"),
            "computer_architecture": ("Computer Architecture", "计算机组成"),
            "college_programming": ("College Programming", "大学编程"),
            "college_physics": ("College Physics", "大学物理"),
            "college_chemistry": ("College Chemistry", "大学化学"),
            "advanced_mathematics": ("Advanced Mathematics", "高等数学"),
            "probability_and_statistics": ("Probability and Statistics", "概率统计"),
            "discrete_mathematics": ("Discrete Mathematics", "离散数学"),
            "electrical_engineer": ("Electrical Engineer", "注册电气工程师"),
            "metrology_engineer": ("Metrology Engineer", "注册计量师"),
            "high_school_mathematics": ("High School Mathematics", "高中数学"),
            "high_school_physics": ("High School Physics", "高中物理"),
            "high_school_chemistry": ("High School Chemistry", "高中化学"),
            "high_school_biology": ("High School Biology", "高中生物"),
            "middle_school_mathematics": ("Middle School Mathematics", "初中数学"),
            "middle_school_biology": ("Middle School Biology", "初中生物"),
            "middle_school_physics": ("Middle School Physics", "初中物理"),
            "middle_school_chemistry": ("Middle School Chemistry", "初中化学"),
            "veterinary_medicine": ("Veterinary Medicine", "兽医学"),
        },
    ),
    **_table(
        "Social Science",
        {
            "college_economics": ("College Economics", "大学经济学"),
            "business_administration": ("Business Administration", "工商管理"),
            "marxism": ("Marxism", "马克思主义基本原理"),
            "mao_zedong_thought": (
                "Mao Zedong Thought",
                "毛泽东思想和中国特色社会主义理论体系概论",
            ),
            "education_science": ("Education Science", "教育学"),
            "teacher_qualification": ("Teacher Qualification", "教师资格"),
            "high_school_politics": ("High School Politics", "高中政治"),
            "high_school_geography": ("High School Geography", "高中地理"),
            "middle_school_politics": ("Middle School Politics", "初中政治"),
            "middle_school_geography": ("Middle School Geography", "初中地理"),
        },
    ),
    **_table(
        "Humanities",
        {
            "modern_chinese_history": ("Modern Chinese History", "近代史纲要"),
            "ideological_and_moral_cultivation": (
                "Ideological and Moral Cultivation",
                "思想道德修养与法律基础",
            ),
            "logic": ("Logic", "逻辑学"),
            "law": ("Law", "法学"),
            "chinese_language_and_literature": ("Chinese Language and Literature", "中国语言文学"),
            "art_studies": ("Art Studies", "艺术学"),
            "professional_tour_guide": ("Professional Tour Guide", "导游资格"),
            "legal_professional": ("Legal Professional", "法律职业资格"),
            "high_school_chinese": ("High School Chinese", "高中语文"),
            "high_school_history": ("High School History", "高中历史"),
            "middle_school_history": ("Middle School History", "初中历史"),
        },
    ),
    **_table(
        "Other",
        {
            "civil_servant": ("Civil Servant", "公务员"),
            "sports_science": ("Sports Science", "体育学"),
            "plant_protection": ("Plant Protection", "植物保护"),
            "basic_medicine": ("Basic Medicine", "基础医学"),
            "clinical_medicine": ("Clinical Medicine", "临床医学"),
            "urban_and_rural_planner": ("Urban and Rural Planner", "注册城乡规划师"),
            "accountant": ("Accountant", "注册会计师"),
            "fire_engineer": ("Fire Engineer", "注册消防工程师"),
            "environmental_impact_assessment_engineer": (
                "Environmental Impact Assessment Engineer",
                "环境影响评价工程师",
            ),
            "tax_accountant": ("Tax Accountant", "税务师"),
            "physician": ("Physician", "医师资格"),
        },
    ),
}
# "C-Eval Hard" of the paper (arXiv 2305.08322): mathematics, physics and chemistry that need long
# reasoning.
CEVAL_HARD = frozenset(
    {
        "advanced_mathematics",
        "discrete_mathematics",
        "probability_and_statistics",
        "college_chemistry",
        "college_physics",
        "high_school_mathematics",
        "high_school_chemistry",
        "high_school_physics",
    }
)
# Chinese names and classes as in src/categories.py of github.com/haonan-li/CMMLU (commit 7aa0f6f).
_CMMLU = {
    "STEM": {
        "anatomy": "解剖学",
        "astronomy": "天文学",
        "college_actuarial_science": "大学精算学",
        "college_engineering_hydrology": "大学工程水文学",
        "college_mathematics": "大学数学",
        "college_medical_statistics": "大学医学统计",
        "computer_science": "计算机科学",
        "conceptual_physics": "概念物理学",
        "electrical_engineering": "电气工程",
        "elementary_mathematics": "初等数学",
        "genetics": "遗传学",
        "high_school_biology": "高中生物",
        "high_school_chemistry": "高中化学",
        "high_school_mathematics": "高中数学",
        "high_school_physics": "高中物理学",
        "machine_learning": "机器学习",
        "virology": "病毒学",
    },
    "Social Science": {
        "ancient_chinese": "古汉语",
        "business_ethics": "商业伦理",
        "chinese_civil_service_exam": "中国公务员考试",
        "chinese_food_culture": "中国饮食文化",
        "chinese_foreign_policy": "中国外交政策",
        "chinese_teacher_qualification": "中国教师资格",
        "college_education": "大学教育学",
        "economics": "经济学",
        "education": "教育学",
        "elementary_chinese": "小学语文",
        "ethnology": "民族学",
        "high_school_geography": "高中地理",
        "high_school_politics": "高中政治",
        "journalism": "新闻学",
        "management": "管理学",
        "marketing": "市场营销",
        "modern_chinese": "现代汉语",
        "professional_accounting": "专业会计",
        "professional_psychology": "专业心理学",
        "public_relations": "公共关系",
        "security_study": "安全研究",
        "sociology": "社会学",
    },
    "Humanities": {
        "arts": "艺术学",
        "chinese_history": "中国历史",
        "chinese_literature": "中国文学",
        "college_law": "大学法律",
        "global_facts": "全球事实",
        "international_law": "国际法学",
        "jurisprudence": "法理学",
        "logical": "逻辑学",
        "marxist_theory": "马克思主义理论",
        "philosophy": "哲学",
        "professional_law": "专业法学",
        "world_history": "世界历史",
        "world_religions": "世界宗教",
    },
    "Other": {
        "agronomy": "农学",
        "chinese_driving_rule": "中国驾驶规则",
        "clinical_knowledge": "临床知识",
        "college_medicine": "大学医学",
        "computer_security": "计算机安全",
        "construction_project_management": "建设工程管理",
        "elementary_commonsense": "小学常识",
        "elementary_information_and_technology": "小学信息技术",
        "food_science": "食品科学",
        "human_sexuality": "人类性行为",
        "legal_and_moral_basis": "法律与道德基础",
        "nutrition": "营养学",
        "professional_medicine": "专业医学",
        "sports_science": "体育学",
        "traditional_chinese_medicine": "中医中药",
    },
}
CMMLU: dict[str, Subject] = {
    subject: Subject(title(subject), chinese, category)
    for category, names in _CMMLU.items()
    for subject, chinese in names.items()
}
